"""Images and labels from files: arrays, archives, the folders of the field's data sets, and folders of image files."""
