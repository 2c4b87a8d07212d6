"""What vitral knows about each family of modules: how one is made, and what its artifact says."""
