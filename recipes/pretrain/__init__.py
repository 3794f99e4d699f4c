"""The pre-training of the bundled model: tokenizer, tiles, tasks, three phases, evaluation, export."""
