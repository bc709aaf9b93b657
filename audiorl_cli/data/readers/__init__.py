"""One file a kind of source: each gives the utterances of `data.sources`."""
