package func kernelsPlaceholder() {}
