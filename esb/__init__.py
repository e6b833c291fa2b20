"""An enterprise service bus: messages travel as envelopes through steps."""

__version__ = "0.1.0"
