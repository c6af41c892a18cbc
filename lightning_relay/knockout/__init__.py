"""Units of recurrent layers knocked out for all that reads them."""
