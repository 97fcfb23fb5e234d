"""What the agent is made of: its tools, and the policies that choose among them."""
