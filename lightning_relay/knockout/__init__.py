"""Units of recurrent layers knocked out for everything that reads them."""
