"""`python -m keras_examples` is the command line."""

from cli import main

main()
