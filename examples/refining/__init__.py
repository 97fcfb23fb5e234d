"""What the report refiner is made of: a critic, a rewriter by rules, one by models, and a measure of meaning."""
