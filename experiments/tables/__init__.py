"""Tables and figures of the results page, made from the runs that are kept."""
