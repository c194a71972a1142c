"""Reading and writing samples: images, arrays, tars, workers, views and batches."""
