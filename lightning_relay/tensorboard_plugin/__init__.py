"""The Relays tab of TensorBoard: saved reports under the log directory, as interactive figures."""
