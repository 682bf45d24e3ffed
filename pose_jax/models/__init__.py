"""The temporal convolutional network in its three forms."""
