// Which colours the reader has chosen, before anything is painted. Nothing is stored until somebody chooses.

import { storedTheme } from "./colours.js";

const theme = storedTheme();
if (theme) document.documentElement.dataset.theme = theme;
