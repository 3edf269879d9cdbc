"""The words that the rooms share: errors, object references and events, results, model packages, settings."""
