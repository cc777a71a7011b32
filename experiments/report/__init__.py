"""Tables, charts and the page: they are drawn from stored rows and arrays."""
