"""Methods that change a trained model's weights without training: folders in, a new folder out."""
