"""What of an image file is given to a decoder: each format's structure is read here first, strictly and in bounds.

Decoders are attacked by way of what pixels do not need: tags that claim gigabytes, text that unpacks to them, comments,
thumbnails, further frames. So a file is taken apart, its size and orientation are read, and only what its pixels
need goes on.
"""
