"""Tables, charts and the page: they are drawn from stored rows and arrays.

The modules:

    members       rows of results, with their place in the sweep
    groups        members whose scores may be compared; means over seeds, axes, layout
    findings      sentences on a group
    comparison    the test of one kind of model against another
    scores        the stored scores of test images, and their pairs
    pairs         pairs of runs from two selections
    differences   the differences of two selections, and what they say

    page          report.html of a run folder
    charts        its charts, of a group
    style         the look of the charts, and their files
    pictures      pictures of each run: grids of images, and scatter of latents
    tables        tables of scores, also in LaTeX and Markdown
    terminal      tables in the terminal
    papers        published tables beside our results
    columns       docs/columns.md
"""
