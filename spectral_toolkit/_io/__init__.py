"""What comes in and goes out: images, the tree of activations, bundles, files written whole or not at all."""
