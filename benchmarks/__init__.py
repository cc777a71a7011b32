"""Speed, measured side by side: this project, its peers, and the machine's limit."""
