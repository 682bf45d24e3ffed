"""What pictures of poses are made of: bones, colours, a view in perspective, text and film."""
