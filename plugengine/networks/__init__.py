"""Networks and addresses, and the files of /etc that follow from them."""
