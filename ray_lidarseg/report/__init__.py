"""One self-contained HTML page from run, prediction and prepared folders."""
