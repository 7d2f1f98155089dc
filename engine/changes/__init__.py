"""Changes of lines, one or a million: logged, and confirmed by every worker."""
