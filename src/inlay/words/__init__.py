"""Words and labelled text: keyed vectors, text classifiers, token encoders."""
