"""Studies: the runs behind the results page, and the driver that starts them."""
