"""What is kept: the database and its rows, the names of files and directories, ranges of ids."""
