"""The rows and arrays that report a run.

The modules:

    columns          the columns of all tables, which columns.toml declares
    results          a row from arrays over test images
    diagnosis        the columns on latents
    status           the column that says how training ended
    stored_arrays    the arrays that are stored, so that the report needs no model
"""
