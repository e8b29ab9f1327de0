"""What a person looks at: pictures, predictions, text, reports, a page."""
