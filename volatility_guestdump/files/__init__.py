"""Files that hold a guest's memory: where they lie, and random access to what is in them."""
