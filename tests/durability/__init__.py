"""What the tests of the collection share: encoders that cost nothing, collections to damage, writers to kill.

- `fakes`: encoders that count what they are asked.
- `samples`: small collections with segments of every kind, and the fixed questions put to them.
- `writer_process`: a writer that keeps a journal of what it was told and may be killed anywhere.
"""
