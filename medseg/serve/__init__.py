"""serve: the pipe of ``medseg predict`` behind HTTP, on this machine.

Reads a model folder; writes nothing that stays: uploads and label maps lie in a folder of the process alone, which is
removed when it ends. Guarantees: the label map has the bytes that ``medseg predict`` gives; one prediction at a time,
a bounded queue, bounded uploads; a prediction whose client leaves is cancelled between slabs; no name and no content
of an upload is logged.
"""
