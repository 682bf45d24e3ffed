"""The training core that the packages share: what any model needs to train on a pod."""
