"""Pose experiments: the paper's runs on Human3.6M and HumanEva, and the open benchmark."""
