"""Images: where they come from, and how they become integers in three splits.

The modules:

    images        load_data reads a data set, binarizes it and cuts it into three splits
    settings      which images a run uses

    digits        reads the digits of scikit-learn
    npz           reads an npz file
    folders       reads a folder: subfolders are splits or classes, pixels decodes files
    tfds          reads prepared data sets, once descriptions has checked their names
    sources       what these readers share and return

    names, axes, values     the meaning of other people's names, shapes and numbers
    cache         keeps decoded images for a second start
    downloads     downloads published data sets and prepares them for tfds
"""
