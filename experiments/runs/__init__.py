"""The folder of a run: its files, and how nothing in it is lost."""
