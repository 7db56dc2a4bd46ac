"""`python -m rep3d`: the command `rep3d`."""

from rep3d.commands import main

if __name__ == "__main__":
    main()
