"""The parts of the code fixer: edits, mutations, the trial that runs the tests, the search, and the models."""
