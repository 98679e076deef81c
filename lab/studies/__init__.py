"""What the findings compute and draw, one file a finding."""
