// Before anything is painted: the colours that were chosen last.
try {
  const theme = localStorage.getItem('sidelight-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; then the system decides.
}
