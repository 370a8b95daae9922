"""Make the embedded model ahead and print its folder: ``python -m inspector.model.embedded``."""

from inspector.model.embedded import ensure

if __name__ == "__main__":
    print(ensure())
