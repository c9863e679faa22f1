"""What torch and its relatives write: pickles, which are read and never run, and the tensors behind them."""
