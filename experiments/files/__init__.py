"""Files that are written whole or not at all, and verified when they are read.

The modules:

    writing    writes a file atomically
    reading    reads a regular file of limited size
    sealed     records: JSON with a digest
    tensors    named arrays: safetensors with a digest
    digests    digests of arrays and of JSON values
    tables     CSV files
    locks      locks on files
    templates  templates of pages
    paths      paths that users type, and the files below a folder
"""
