"""One page of evidence: tables and pictures, as Markdown and as a single HTML file."""
