"""A look inside a trained model: the gates of its focal layers, its receptive field, pictures of both."""
