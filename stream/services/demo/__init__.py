"""What `isthmus demo` is made of: the load, the two ways to run the parts, the tally, the view."""
