"""One module per migration; never changed after its release."""
