"""Domains: data, codec, rewards, metrics and drawing for one kind of object each."""
