"""Input and output: images, the tree of activations, bundles, and files that are written completely or not at all."""
