"""``python -m finetune_operator``: the same as ``finetune-operator``."""

from finetune_operator.main import main

if __name__ == "__main__":
    main()
