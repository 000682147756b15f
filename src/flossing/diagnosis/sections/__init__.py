"""The sections of an analysis: one question a file, each a function from a study to a section."""
