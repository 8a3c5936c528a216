// Runs before the first paint, so that a chosen theme never flashes the other one.
;(function () {
  try {
    var theme = localStorage.getItem('pic-theme')
    if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme
    var language = localStorage.getItem('pic-language')
    if (language === 'en' || language === 'de') document.documentElement.lang = language
  } catch {
    // Storage is off: the system's theme it is.
  }
})()
