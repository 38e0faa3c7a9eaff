"""``python -m deploy.prometheus``: write the rules of the service level objectives."""

from deploy.prometheus import write

if __name__ == "__main__":
    print(write())
