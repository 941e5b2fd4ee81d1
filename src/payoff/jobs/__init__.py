"""Jobs: train, design, finetune, steer, compare, sample, each once for every kind of object."""
